"""Training: schedules, clipping, AdamW with a table of which only what was reached is kept, masking."""
