"""The exceptions that a command turns into one line instead of a traceback, and its exit codes."""

BAD_INPUT = 2
STOPPED = 3
INTERRUPTED = 130


class ConfigError(ValueError):
    """A key, file or value that cannot be used.

    Its message is a single line that names the key or file, what was found and what is accepted. The commands print
    that line and exit with code 2, before any long work starts.
    """


class AbsentError(ConfigError):
    """Something that a config names rightly and that is not here: a file, a package, a dataset.

    A row of a table that lacks something is marked with the reason, and the others run.
    """


class RunError(RuntimeError):
    """A run that cannot go on for a reason outside the program: a full disk, memory for not even one row.

    Its message is a single line. What was finished is kept; the commands print the line and exit with code 3.
    """
