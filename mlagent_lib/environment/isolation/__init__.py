"""Isolated, warm execution of scripts that a model wrote.

Three processes take part. The *parent* owns the labels and never runs anything of a workspace. The *warm
server* (`warm_server.py`) is started fresh with a clean environment, has the scientific stack loaded and
never saw a label. The *run* is forked from the server, locked into its workspace (`jail.py`) and watched by
a small guard process.

The server loads this folder as a package under another name, because a run must be able to read nothing of
``mlagent_lib``. So `kernel`, `landlock`, `seccomp`, `limits_os`, `jail`, `run_folder`, `warm_up`,
`script_seeds`, `script_workers` and `warm_server` import only the standard library and each other; the others
belong to the parent, but for `launcher`, which stands between it and bubblewrap.
"""
