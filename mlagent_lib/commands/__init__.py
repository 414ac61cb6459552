"""The commands of ``mlagent``: words in, a call, lines out. Their help and options: ``commands.toml``."""
