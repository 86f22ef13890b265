"""Arrays in, arrays out: the only compiled code of the package. Nothing here knows a class of ours."""
