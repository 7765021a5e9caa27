"""What each kind of data brings to training. Rests on `losses` and `measuring`.

To add a kind, add its file to this room and its record to the table.
"""

from __future__ import annotations

from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.media.pictures import PICTURES

MEDIA: dict[str, Medium] = {medium.kind: medium for medium in (PICTURES,)}
"""Every kind of data that a tokenizer can be trained on."""
