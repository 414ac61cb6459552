"""Task folders: what the agent sees, how it is graded, and the pocket suite.

* ``task`` reads one folder; ``registry`` finds tasks by name; ``env_folder`` says what a run copies of it
* ``grading`` and ``metrics`` score a submission; ``check`` holds a folder to the rules of ``contract``;
  ``refusals`` says why something cannot be done, and what to do
* ``spec``, ``splits``, ``frames``, ``folder`` make one: rows, starter, files; ``attempt`` runs a script once
* ``pocket``: the suite; ``own``: a table of one's own; ``paper``: its tasks; ``foreign``: other formats
"""
