# Made from launch.command.cli of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations




class UserError(ValueError):
    """What the user can mend: one line that names the key, the rule, the value and a way out."""
