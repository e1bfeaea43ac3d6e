"""The one exception type that means: the user can mend this."""


class ConfigError(ValueError):
    """A key, file or value that cannot be used.

    Its message is a single line that names the key or file, what was found and what is accepted. The commands print
    that line and exit with code 2, before any long work starts.
    """
