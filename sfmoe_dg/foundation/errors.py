"""The one exception that users are meant to read."""


class UserError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, what is allowed, what to do.

    The command line prints it without a traceback and exits with code 2.

    Examples:
        >>> from sfmoe_dg import CATALOG, UserError
        >>> try:
        ...     CATALOG.load("OfficeHomes")
        ... except UserError as error:
        ...     print(error)
        unknown data set 'OfficeHomes': did you mean OfficeHome?
    """
