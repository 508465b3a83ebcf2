"""The queue that makes batches."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from helpers import Brightness, grey, keep_busy, picture, wait_until

from captioning.batching import CaptionQueue, QueueFull
from captioning.cores import CPU_COUNT
from captioning.images import ImageError, Photo


@pytest.fixture
def queue(monkeypatch):
    """Make queues for a machine of two cores, and close them at the end."""
    monkeypatch.setattr("captioning.batching.CPU_COUNT", 2)
    queues = []

    def make(generator, **options):
        queues.append(CaptionQueue(generator, **options))
        return queues[-1]

    yield make
    for queue in queues:
        if isinstance(queue.generator, Brightness):
            queue.generator.gate.set()
        queue.close()


@pytest.fixture
def one_core(monkeypatch):
    """The order of batches is certain."""
    monkeypatch.setattr("captioning.batching.CPU_COUNT", 1)


def test_batches_give_the_same_captions_as_one_by_one(generator, queue):
    photos = [generator.prepare(picture(n)) for n in range(3)]
    alone = [generator.caption(photo) for photo in photos]
    together = queue(generator)
    together.warm_up()
    answers = [together.submit(photo) for photo in photos]  # the first one alone, the others perhaps together
    for answer, expected in zip(answers, alone):
        assert answer.result(60).text == expected.text
        assert answer.result().probability == pytest.approx(expected.probability, rel=1e-3)


def test_every_thread_gets_its_own_answer_and_batches_grow_with_the_load(queue):
    generator = Brightness(0.01)
    captions = queue(generator)
    with ThreadPoolExecutor(40) as clients:
        texts = list(clients.map(lambda level: captions.submit(grey(level)).result(20).text, range(200)))
    assert texts == [str(level) for level in range(200)]
    assert len(generator.batches) < 100 and max(generator.batches) <= 5


@pytest.mark.parametrize(("waiting", "sizes"), [(1, [1]), (2, [1, 1]), (8, [4, 4]), (40, [5, 5])])
def test_the_free_cores_share_what_waits(waiting, sizes, queue):
    generator = Brightness(0.1)
    captions = queue(generator)
    keep_busy(captions)
    answers = [captions.submit(grey(n)) for n in range(waiting)]
    generator.gate.set()
    assert [answer.result(20).text for answer in answers] == [str(n) for n in range(waiting)]
    assert generator.batches[: len(sizes) + 1] == [1, *sizes]  # later ones depend on which core is faster
    assert sum(generator.batches) == 1 + waiting and max(generator.batches) <= 5


def test_photos_of_one_batch_have_the_same_options(queue, one_core):
    generator = Brightness()
    captions = queue(generator, beam_width=3)
    keep_busy(captions)
    answers = [captions.submit(grey(n), **({"beam_width": 5} if n % 2 else {})) for n in range(7)]
    generator.gate.set()
    assert [answer.result(20).text for answer in answers] == [str(n) for n in range(7)]
    assert generator.batches == [1, 4, 3]
    assert generator.options[1:] == [(3, 3), (5, 5)]


def test_a_batch_has_photos_of_all_groups_that_wait(queue, one_core):
    generator = Brightness()
    captions = queue(generator)
    keep_busy(captions)
    done = []
    for n in range(9):
        captions.submit(grey(n), group="many").add_done_callback(lambda answer: done.append(answer.result().text))
    captions.submit(grey(100), group="one").add_done_callback(lambda answer: done.append(answer.result().text))
    generator.gate.set()
    wait_until(lambda: len(done) == 10)
    assert "100" in done[:2]
    assert [text for text in done if text != "100"] == [str(n) for n in range(9)]


def test_warm_up_runs_one_photo_and_one_for_each_core(queue):
    generator = Brightness()
    queue(generator).warm_up()
    assert generator.batches == [1, CPU_COUNT]


def test_a_queue_without_room_is_refused():
    with pytest.raises(ValueError, match="room for one photo"):
        CaptionQueue(Brightness(), max_waiting=0)


@pytest.mark.parametrize("cores", [1, 2])
def test_warm_threads_answer(queue, monkeypatch, cores):
    """Each thread has a model of its own, which takes time and memory."""
    monkeypatch.setattr("captioning.batching.CPU_COUNT", cores)
    captions, threads = queue(Brightness()), []
    caption_batch = captions.generator.caption_batch

    def recorded(images, **options):
        threads.append(threading.current_thread().name)
        return caption_batch(images, **options)

    captions.generator.caption_batch = recorded
    captions.warm_up()
    keep_busy(captions)
    answers = [captions.submit(grey()) for _ in range(3)]
    captions.generator.gate.set()
    assert all(answer.result(20) for answer in answers)
    assert cores > 1 or set(threads) == {"captions"}


def test_full_queue_refuses_at_once(queue):
    captions = queue(Brightness(), max_waiting=3)
    keep_busy(captions)
    answers = [captions.submit(grey()) for _ in range(3)]
    with pytest.raises(QueueFull):
        captions.submit(grey())
    with pytest.raises(QueueFull):
        captions.submit_unread(pytest.fail)
    assert len(captions) == 3
    captions.generator.gate.set()
    assert all(answer.result(20) for answer in answers)


def test_photos_have_their_place_before_they_are_read(queue):
    captions = queue(Brightness(), max_waiting=3)
    captions.generator.gate.set()
    readings = [Future() for _ in range(3)]
    answers = [captions.submit_unread(lambda reading=reading: reading)[1] for reading in readings]
    with pytest.raises(QueueFull):
        captions.submit(grey())
    readings[0].set_result(Photo(grey(7), 1, 1, None))
    assert answers[0].result(20).text == "7"
    readings[1].set_exception(ImageError("broken", "damaged"))
    with pytest.raises(ImageError, match="broken"):
        answers[1].result(20)
    readings[2].cancel()
    assert answers[2].cancelled() and len(captions) == 0
    with pytest.raises(ZeroDivisionError):
        captions.submit_unread(lambda: 1 // 0)
    assert len(captions) == 0


def test_a_closed_queue_captions_what_is_being_read(queue):
    captions, reading = queue(Brightness()), Future()
    captions.generator.gate.set()
    _, answer = captions.submit_unread(lambda: reading)
    captions.close(0.1)
    with pytest.raises(QueueFull):
        captions.submit(grey())
    reading.set_result(Photo(grey(7), 1, 1, None))
    assert answer.result(20).text == "7"


@pytest.mark.skipif(CPU_COUNT < 2, reason="one core does one thing at a time")
def test_a_photo_whose_model_must_be_loaded_holds_up_nobody(queue):
    generator, loaded = Brightness(), threading.Event()
    caption_batch = generator.caption_batch

    def load_and_caption(images, beam_width, **options):
        assert beam_width not in (5, 6) or loaded.wait(30)
        return caption_batch(images, beam_width, **options)

    generator.caption_batch = load_and_caption
    captions = queue(generator)
    slow = [captions.submit(grey(), beam_width=5)]
    wait_until(lambda: len(captions) == 0)
    slow += [captions.submit(grey(), beam_width=width) for width in (5, 6)]
    assert captions.submit(grey(7)).result(20).text == "7"
    assert not any(answer.done() for answer in slow)
    loaded.set()
    assert all(answer.result(20) for answer in slow)


def test_a_photo_that_nobody_waits_for_costs_no_batch(queue):
    captions = queue(Brightness())
    keep_busy(captions)
    gone = captions.submit(grey(), gone=lambda: True)
    captions.submit(grey()).cancel()
    late = captions.submit(grey())
    with pytest.raises(TimeoutError):
        late.result(0.01)
    late.cancel()
    last = captions.submit(grey(7))
    captions.generator.gate.set()
    assert last.result(20).text == "7"
    assert gone.cancelled() and captions.generator.batches == [1, 1]


def test_a_language_that_the_model_lacks_is_an_error_of_the_caller(queue):
    captions = queue(Brightness())
    with pytest.raises(ValueError, match="no captions in 'de'"):
        captions.submit(grey(), language="de")
    assert captions.submit(grey(7)).result(20).text == "7"


def test_a_failed_batch_does_not_stop_the_queue(queue):
    generator = Brightness()
    captions = queue(generator)
    generator.fail = True
    for _ in range(3):
        with pytest.raises(RuntimeError, match="secret"):
            captions.submit(grey()).result(20)
    assert captions.alive and captions.failing and captions.failed == 3
    generator.fail = False
    assert captions.submit(grey(9)).result(20).text == "9" and not captions.failing


def test_close_finishes_what_waits(queue):
    captions = queue(Brightness())
    keep_busy(captions)
    answers = [captions.submit(grey(n)) for n in range(7)]
    threading.Timer(0.1, captions.generator.gate.set).start()
    captions.close()
    assert [answer.result(0).text for answer in answers] == [str(n) for n in range(7)] and not captions.alive
    with pytest.raises(QueueFull):
        captions.submit(grey())
