"""Fine-tune a model on your own data with one command.

The package has these modules:

    data     reads a file of prompts and answers, checks it, holds rows out, and tokenizes the rows
    forms    recognizes the form of the rows, and turns each row into a conversation
    notes    finds what is worth a warning in data that can be used
"""
