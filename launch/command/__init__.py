"""How commands read and check their options, show progress, report errors and exit. Rests on nothing."""
