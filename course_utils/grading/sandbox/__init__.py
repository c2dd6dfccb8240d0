"""Run what a stranger has written, so that it reaches neither this machine nor another process.

    server        outside: starts the sandboxes, and the processes in them
    bubblewrap    the sandbox's files, variables and namespaces, as one bubblewrap command
    package       the copy of course_utils in the sandbox, without what an assignment withholds
    limits        memory and processes that one submission may use

    inside        the first program in a sandbox: imports the libraries once, then forks
    namespaces    what a forked process gives up, so that it shares nothing with its neighbours
    seccomp       the system calls that the kernel refuses to it
    processes     what it then does: run a student's cells, or the tests
    shell         IPython, which runs the cells

    messages      what goes between the processes

This package imports nothing of the course but `values`, `checks`, `validation`, `units` and
`cgroups`, none of which an assignment may withhold.
"""
