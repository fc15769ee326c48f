"""What is true: data types, chat format, maths, models, storage. Never imports Ray."""
