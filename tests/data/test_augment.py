import torch

from hetpure.data.items import augment


def test_keyed():
    image = torch.arange(3 * 8 * 8.0).view(3, 8, 8)
    results = [augment(image, (0, 0, index), flip=True, crop_padding=2) for index in range(20)]
    again = [augment(image, (0, 0, index), flip=True, crop_padding=2) for index in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(results, reversed(again), strict=True))
    assert any(not torch.equal(results[0], other) for other in results[1:])
    assert all(result.shape == image.shape for result in results)
    assert not torch.equal(results[0], augment(image, (0, 1, 0), flip=True, crop_padding=2))


def test_flip_alone_gives_the_image_or_its_mirror():
    image = torch.rand(1, 4, 4)
    results = [augment(image, (0, 0, index), flip=True, crop_padding=0) for index in range(20)]
    mirrored = [torch.equal(result, image.flip(-1)) for result in results]
    assert all(m or torch.equal(result, image) for m, result in zip(mirrored, results, strict=True))
    assert 0 < sum(mirrored) < 20


def test_off():
    image = torch.rand(1, 4, 4)
    assert augment(image, (0, 0, 0), flip=False, crop_padding=0) is image
