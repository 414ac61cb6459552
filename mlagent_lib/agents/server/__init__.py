"""Whatever talks to a model server: requests, limits, costs, replies that are kept."""
