"""Agents: prompts, policies, ideas, the expert, trajectories, and servers that speak the OpenAI protocol."""
