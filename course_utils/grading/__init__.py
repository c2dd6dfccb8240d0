"""Grade assignments with nbgrader: their tasks, their rules, their release and their marking."""
