"""Training: the step with schedule, clipping and AdamW, and pretraining from text files."""

from xlmr_np.training.adamw import AdamWSetting
from xlmr_np.training.trainer import Trainer, TrainingSetting, TrainingStep

__all__ = ["AdamWSetting", "Trainer", "TrainingSetting", "TrainingStep"]
