"""Judges that cannot be talked to: the judged text is quoted data, a verdict is JSON beside a nonce."""
