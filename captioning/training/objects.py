"""Objects that a caption names and no reference mentions: hallucination, measured by CHAIR.

Rohrbach et al., 2018, "Object hallucination in image captioning", arXiv:1809.02156. They use
COCO's 80 objects. This list has the objects that Flickr8k's training captions often name, one per line with its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

OBJECTS = """
person people man men woman women boy boys girl girls child children kid kids baby toddler guy guys lady ladies adult adults male males female females player players rider riders skateboarder skateboarders biker bikers cyclist cyclists bicyclist bicyclists skier skiers snowboarder snowboarders surfer surfers climber climbers hiker hikers swimmer swimmers runner runners motorcyclist crowd group couple family team friends someone teenager teenagers spectators onlookers performer performers dancer dancers worker workers pedestrians
dog dogs puppy puppies poodle greyhound greyhounds retriever shepherd collie terrier dalmatian
cat cats kitten
horse horses pony
bird birds seagull seagulls duck ducks
cow cows
ball balls football basketball baseball volleyball soccer tennis softball
frisbee disc
stick sticks branch
toy toys
bicycle bicycles bike bikes bmx
motorcycle motorcycles motorbike motocross bike bikes
car cars vehicle vehicles truck
truck trucks vehicle
bus train subway
boat boats canoe kayak raft ship sailboat
skateboard skateboards skateboarding skateboarder skateboarders board
snowboard snowboards snowboarding snowboarder snowboarders board
surfboard surfboards surfing surfer surfers surf board
ski skis skiing skier skiers
sled sledding
swing swings swinging
slide slides sliding
trampoline
ramp ramps
rail railing handrail
fence fenced gate
bench benches
chair chairs seat
table tables
couch sofa
bed
guitar microphone instrument instruments drum drums
camera cameras picture pictures photo photos photograph
phone cellphone telephone
hat hats cap helmet helmets beanie
glasses sunglasses goggles
shirt shirts t-shirt t-shirts tee sweater sweatshirt jersey top
jacket jackets coat coats vest parka
dress dresses gown skirt
pants jeans trousers
shorts trunks
swimsuit bikini trunks bathing swimsuits wetsuit
suit suits tuxedo
uniform uniforms jersey jerseys outfit
costume costumes outfit outfits
backpack backpacks bag bags purse
umbrella umbrellas
rope ropes leash
hoop net goal
flag flags banner
sign signs
water ocean sea lake river pool pond stream waves wave surf
beach sand shore sandy
snow snowy snow-covered
ice icy
grass grassy lawn field yard park meadow
mountain mountains hill hills cliff cliffs slope rock rocks rocky mountainside hillside
tree trees woods forest wooded branch
flower flowers
street streets road roads sidewalk pavement city
building buildings house store shop
wall walls
bridge
stairs steps staircase
fountain fountains sprinkler
fire campfire bonfire
food meal dinner lunch cake sandwich
drink drinks beer cup glass bottle drinking
"""

MEANINGS: dict[str, set[int]] = {}
for number, line in enumerate(OBJECTS.split("\n")[1:-1]):
    for word in line.split():
        MEANINGS.setdefault(word, set()).add(number)


def hallucination(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Objects that captions name and none of the reference captions does.

    Args:
        captions: image name → caption, its tokens separated by spaces, in lower case.
        references: image name → reference captions of the same images, likewise.

    Returns:
        Percentages, smaller is better: ``CHAIR-s`` of the captions that name such an object, ``CHAIR-i`` of the named
        objects that are such. A word with two meanings ("board") is right if one of them is.

    >>> hallucination({"1.jpg": "a dog with a ball"}, {"1.jpg": ["a puppy runs", "the dog has a stick"]})
    {'CHAIR-s': 100.0, 'CHAIR-i': 50.0}
    """
    named = wrong = captions_wrong = 0
    for name, caption in captions.items():
        words = _words(" ".join(references[name]))
        mentioned = {meaning for word in words for meaning in MEANINGS.get(word, ())}
        objects = {frozenset(MEANINGS[word]) for word in _words(caption) if word in MEANINGS}
        invented = sum(not meanings & mentioned for meanings in objects)
        named, wrong, captions_wrong = named + len(objects), wrong + invented, captions_wrong + (invented > 0)
    return {"CHAIR-s": 100 * captions_wrong / max(len(captions), 1), "CHAIR-i": 100 * wrong / max(named, 1)}


def _words(caption: str) -> list[str]:
    """The words, without the "top" of "on top of", which is no shirt."""
    return caption.replace(" on top of ", " on ").split()
