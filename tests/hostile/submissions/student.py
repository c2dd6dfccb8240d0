"""Unusual names of students."""
# must: at most 9 points; graded or ungradable
# from: solution

# === student_brackets
# tries: honest work by a student whose name is a pattern of files
# student: [x]

# === student_bytes
# tries: honest work by a student whose name is in bytes that are no UTF-8
# student: M\udcfcller

# === student_dots
# tries: a student whose name is three dots and a space
# student: ...

# === student_formula
# tries: a student whose name is a formula for the spreadsheet that opens the CSV
# student: =cmd|' calc'!A0,+1,@SUM(1)

# === student_long
# tries: a student whose name has 200 characters
# student: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx

# === student_option
# tries: a student whose name is an option
# student: --force=True -rf

# === student_quotes
# tries: a student whose name is a statement in SQL, and a script
# student: x'); drop table grade; --<script>hostile-script()<\u001b[2J

# === student_shell
# tries: a student whose name is a command
# student: student;touch escaped-name;$(touch escaped-name)`touch escaped-name`

# === student_star
# tries: a student whose name is a star, which stands for everybody
# student: *
# from: release

# === student_terminal
# tries: a student whose name is codes for the terminal, and whose notebook can't be read
# must: no point; ungradable
# student: \u001b]0;hostile\u0007\u001b[2Jx\u202e
# %% files
files |= {FILE: b"[", "\x1b[2J.ipynb": b"["}

# === student_unicode
# tries: honest work by a student whose name is in letters of many kinds, and turns the line around
# student: Müller-李 ☃ \u202e
