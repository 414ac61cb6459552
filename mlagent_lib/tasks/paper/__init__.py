"""The 19 tasks of the paper on their own data: recipes, download with the user's login, and task folders."""
