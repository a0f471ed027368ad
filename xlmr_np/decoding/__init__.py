"""Text generation: what is asked for, how scores are changed, how tokens are drawn, when to stop, where text goes."""

from xlmr_np.decoding.generation_config import GenerationConfig
from xlmr_np.decoding.streamers import TextIteratorStreamer, TextStreamer

__all__ = ["GenerationConfig", "TextIteratorStreamer", "TextStreamer"]
