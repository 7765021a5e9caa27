"""What each kind of data brings to training. To add one: its file in this room, and its record in the table."""

from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.media.pictures import PICTURES
from stage1_tokenizer.media.sounds import SOUNDS
from stage1_tokenizer.media.texts import TEXTS
from stage1_tokenizer.media.videos import VIDEOS

MEDIA: dict[str, Medium] = {medium.kind: medium for medium in (PICTURES, SOUNDS, VIDEOS, TEXTS)}
"""Every kind of data that a tokenizer can be trained on."""
