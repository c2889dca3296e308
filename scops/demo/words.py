"""Rows about a written word: read it."""

import hashlib
from collections.abc import Iterator

from scops.demo import wording
from scops.demo.album import Album, dice_of
from scops.demo.pictures import written
from scops.demo.row import Row

HELD_SHARE = 0.1
CAPITALS = 0.4
WORDS = tuple(
    """
    able acid actor also apple april arm army art aunt autumn away baby back bag ball band bank bar base bath
    beach bean bear bed bell belt best big bike bill bird blue boat body bold bone book boot born box boy brain
    bread brick bridge broad brown brush bus busy cake call calm camp card care cat chair chalk cheap cheese
    chess child circle city clay clean clock cloud coal coat coffee coin cold cool copy corn cost cow crab cream
    crew crop crown cup dance dark date dawn day deep deer desk dish doctor dog door dove draw dream dress drink
    drum dry duck dust eagle ear early earth east easy edge egg eight empty engine even exit eye face fact fair
    fall farm fast fear feet fern field film final fire fish five flag flame flat floor flour flower fly fog
    food foot forest fork four fox free fresh friend frog front fruit fuel full fun game garden gate gift girl
    give glad glass goat gold good grape grass gray green group guest hair half hall hand happy harbor hard hat
    head heart heat help hen herb hero high hill home honey hope horse hot hotel hour house human ice idea iron
    island ivory jam jar jazz join joke july jump june jungle just keep key kind king kite knee knife lake lamb
    lamp land large late laugh lead leaf learn left lemon letter lime line lion lip list live lock long look
    love low luck lunch magic mail main man map march mark mask maze meal meat metal milk mill mind mint mix
    moon more moss moth mouse mouth movie mud music name neck nest net new nice night nine noise north nose note
    nut oak ocean off oil old olive one onion open orange oval oven page paint pair palm paper park path pea
    peace pear pen pepper phone photo piano pig pilot pine pink pipe plan plant plate play plum pocket poem pond
    pony pool port post potato press prize pure queen quick quiet rabbit race rain read red rest rice rich ride
    right ring river road robot rock roof room root rope rose round rule run sad safe sail salad salt sand
    school sea seat seed seven sheep shell ship shirt shoe shop short silk silver sing sister six skin sky sleep
    slow small smile snow soap sock soft soil song soup south spoon spring square stage star steel step stone
    store storm story street strong sugar summer sun swan sweet swim table tail tall tea team ten tent test thin
    tiger time tiny toast today tooth top tower town toy track train tree trip true tulip tune two uncle under
    up valley van vase view village violet visit voice walk wall warm wash watch water wave way week well west
    wheat wheel white wide wild win wind window wine wing winter wolf wood wool word work world yard year yellow
    yes young zebra zero zoo
    """.split()  # noqa: SIM905
)


def word_rows(album: Album, *, count: int, split: str) -> Iterator[Row]:
    """Words of the split in varied fonts, sizes and colours, in small or capital letters, read as they are written."""
    choice = [word for word in WORDS if word_split(word) == ("heldout" if split == "heldout_word" else "train")]
    for number in range(count):
        dice = dice_of(album.seed, "word", split, number)
        word = choice[number % len(choice)]
        word = word.upper() if dice.random() < CAPITALS else word
        path = album.add(f"{split}/word-{number}", lambda dice, word=word: written(word, album.side, dice))
        turns = ((dice.choice(wording.WORD_QUESTIONS), wording.word_answer(word)),)
        yield Row(f"word/{split}/{number}", split, "word", {"word": word}, turns, (path,))


def word_split(word: str) -> str:
    """ "train" or "heldout": a fixed tenth by hash."""
    number = int.from_bytes(hashlib.sha256(f"scops {word}".encode()).digest()[:8], "big")
    return "heldout" if number < HELD_SHARE * 2**64 else "train"
