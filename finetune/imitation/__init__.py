"""Learning to act from demonstrations: behaviour cloning, PWIL and an adversarial method, for continuous actions."""
