"""How every command reads its options, checks them, shows progress and says what is wrong."""
