"""Where trainers of others plug in: tasks behind OpenEnv, as tools of TRL, as folders of Harbor."""
