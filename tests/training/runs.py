"""A shape with which runs take no time, and what a run leaves behind."""

from pathlib import Path

from xlmr_np.training.pretraining_setting import ModelShape

TINY_SHAPE = ModelShape(layers=1, hidden_size=16, heads=2, feed_forward=24, max_length=24)


def contents(directory: Path, *left_out: str) -> dict[str, bytes]:
    """The bytes of all files but those of these names."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in left_out]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
