"""Photos of a data set, read in batches."""

from captioning.training.reading import read_batches


def test_broken_pictures_do_not_stop_the_reading(pictures):
    batches = list(read_batches(pictures, 64, 3))
    assert [names for names, _, _ in batches] == [["0.jpg", "1.jpg", "2.jpg"], ["4.jpg", "5.jpg"], ["6.jpg"]]
    assert [(images.shape, images.dtype) for _, images, _ in batches] == [((n, 64, 64, 3), "uint8") for n in (3, 2, 1)]
    assert "3.jpg" in batches[1][2]


def test_a_batch_of_broken_pictures_is_empty(pictures):
    ((names, images, failed),) = read_batches({"3.jpg": pictures["3.jpg"]}, 64, 3)
    assert names == [] and images.shape == (0, 64, 64, 3) and list(failed) == ["3.jpg"]
