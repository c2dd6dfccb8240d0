# tries: to fill /dev/shm, where other programs of the machine share memory
# must: no point; graded or needs a person
# %% answer sum-all
def add(numbers):
    with open("/dev/shm/escaped-shm", "wb") as file:
        for _ in range(200):
            file.write(b"x" * 10_000_000)
