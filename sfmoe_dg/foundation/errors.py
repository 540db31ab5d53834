"""The exception whose message is written for users."""


class UserError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, what is allowed, what to do.

    The command line prints it without a traceback and exits with code 2.
    """
