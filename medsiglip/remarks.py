"""What a user should know of an input that is taken all the same."""


class Remark(UserWarning):
    """One line; commands print it on stderr, unlike the warnings of other packages."""
