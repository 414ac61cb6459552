"""The environment: workspace, actions, coder, isolated execution, feedback, and the step that joins them."""
