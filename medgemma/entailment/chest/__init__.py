"""What reports of chest films say: findings with whether they are there, where, how large, and what changed."""
