"""Evaluations: tasks, metrics, runner and scores."""
