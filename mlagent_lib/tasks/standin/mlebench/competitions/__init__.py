"""Helpers of the graders."""
