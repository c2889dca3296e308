"""What can be wrong with one row. Loaders count these by class and go on or stop; any other error is a bug."""


class BadSample(ValueError):
    """A row that cannot be used; the message names the row and what was found."""


class RowError(BadSample):
    """A row is not written in the form of its data set."""


class MediaError(BadSample):
    """A picture, video or document is missing, broken, too big or of a kind that is not read."""


class TooLong(BadSample):
    """A conversation needs more tokens than there is room for."""


class NothingToLearn(BadSample):
    """A conversation in which no token is to be predicted."""
