"""Tasks as environments to train in: TRL rewards, episodes, and `verifiers` tasksets, graded as `score` grades."""
