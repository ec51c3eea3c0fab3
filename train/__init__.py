"""train: GRPO on visual games. `python -m train.main --games all`."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
