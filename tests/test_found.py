from nuscenes.eval.detection.data_classes import DetectionBox

from datasets.nuscenes.found import Found, count_found


def box(x: float, *, name: str = "car", score: float = -1.0, points: int = 9, sample: str = "a") -> DetectionBox:
    return DetectionBox(
        sample_token=sample,
        translation=(x, 0.0, 1.0),
        detection_name=name,
        detection_score=score,
        num_pts=points,
        size=(2.0, 4.0, 1.5),
        rotation=(1.0, 0.0, 0.0, 0.0),
    )


def test_only_near_sure_detections_of_the_class_in_the_sample_count() -> None:
    truth = [box(0.0), box(10.0, points=4), box(20.0), box(30.0, sample="b")]
    detections = [box(0.4, score=0.3), box(20.0, name="truck", score=1.0), box(30.0, score=0.9), box(20.6, score=1.0)]
    assert count_found(truth, detections) == Found(1, 3)
    assert count_found(truth, [box(0.0, score=0.29)]) == Found(0, 3)


def test_a_detection_serves_one_annotation_and_the_best_assignment_is_taken() -> None:
    truth = [box(0.0), box(0.6)]
    assert count_found(truth, [box(0.3, score=0.9)]) == Found(1, 2)
    # The first detection reaches both annotations, the second only the first one.
    assert count_found(truth, [box(0.3, score=0.9), box(-0.4, score=0.5)]) == Found(2, 2)


def test_nothing_to_find_and_nothing_found() -> None:
    assert count_found([], [box(0.0, score=1.0)]) == Found(0, 0)
    assert count_found([box(0.0)], []) == Found(0, 1)
