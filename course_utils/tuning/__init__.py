"""Fine-tune a model on your own data with one command.

    rows        reads a JSONL or CSV file, and turns its rows into conversations
    data        holds some rows out for measurements, and checks the lengths of all rows
    base        finds the base model, and reads its config before its weights are downloaded
    forecast    predicts the memory and time of training, and chooses a batch size that fits
    measure     measures a model on held-out rows, before and after training
    run         runs all steps, from reading the file to writing the results
    report      makes the report page of a run

In a terminal, the command is `course finetune my.jsonl`. In a notebook, run this cell:

    from course_utils.tuning import finetune_file
    done = finetune_file("my.jsonl")
    done
"""

from course_utils.tuning.report import Tuned
from course_utils.tuning.run import finetune_file
