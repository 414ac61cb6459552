"""The commands of ``mlagent``, one module each: words in, a call of the library, lines out."""
