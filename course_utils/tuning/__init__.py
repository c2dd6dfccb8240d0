"""Fine-tune a model on your own data with one command.

    data        reads and checks a JSONL file, and holds rows out
    forms       the keys that are recognized in a file
    notes       warnings about a file
    base        finds the base model, and reads its config before its weights are downloaded
    forecast    predicts memory and time, and chooses a batch that fits
    measure     measures a model on held-out rows, before and after training
    run         does all of it, and writes the results
    report      writes the report page

The command is `course finetune my.jsonl`. In a notebook:

    from course_utils.tuning import finetune_file
    done = finetune_file("my.jsonl")
    done
"""

from course_utils.tuning.run import Tuned, finetune_file

__all__ = ["Tuned", "finetune_file"]
