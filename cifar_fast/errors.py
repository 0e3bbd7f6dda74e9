"""The one exception that means: the user's input cannot be used."""


class InputError(ValueError):
    """What was given cannot be used; the message is one line that says what is wrong and what to do.

    Scripts print the message and end with exit code 2.
    """
