"""Run code from strangers in a sandbox that protects this machine and all other submissions.

Modules that run outside of the sandbox:

    server        starts the sandboxes, and the processes in them
    bubblewrap    builds the command that gives a sandbox its files, variables and namespaces
    package       copies course_utils into the sandbox, without modules that contain solutions
    limits        limits the memory of one submission

Modules that run in the sandbox:

    forkserver    the first program in a sandbox: imports the libraries once, then forks
    rlimits       limits the memory, the processes and the open files of the forked process
    namespaces    separates a forked process from all other processes
    seccomp       makes the kernel refuse dangerous system calls of the forked process
    processes     runs a student's cells or the tests in the forked process
    shell         runs the cells with IPython

A module that both sides use:

    messages      sends and receives messages between the processes

From the rest of the course, this package imports only `values`, `checks`, `validation`, `units` and
`cgroups`. An assignment must not withhold these modules.
"""
