"""The command line: one thin module per verb, imported only when its verb is called."""
