"""Stage one: pictures to codes and back."""
