"""The `icl` command, one file a subcommand."""
