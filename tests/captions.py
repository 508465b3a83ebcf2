"""A few captions and their reference captions."""

REFERENCES = {
    "dog.jpg": ["A black dog runs through the grass .", "The dog is running outside .", "A dog runs in a field ."],
    "boy.jpg": ["A boy in a red shirt jumps into the pool .", "The boy's jump makes a splash .", "A boy jumps ."],
    "men.jpg": ["Two men stand on a snowy mountain .", "Two hikers look at the mountain , don't they ?"],
    "cat.jpg": ["A cat sleeps on a sofa .", "A grey cat lies on the couch .", "The cat is asleep ."],
}
CAPTIONS = {
    "boy.jpg": "a boy jumps into the pool",
    "dog.jpg": "a dog dog dog runs",
    "men.jpg": "two men look at a snowy mountain",
    "cat.jpg": "a man rides a bike",
}
