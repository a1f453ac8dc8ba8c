"""The prompt sets, and templates from elsewhere."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from zsclip.errors import InputError
from zsclip.kept.cache import remember
from zsclip.words.labels import Label
from zsclip.words.prompts import PROMPTS_DIR, PromptSet, prompt_set_names, read_prompts, read_templates
from zsclip.words.words import expand

OWN = ["aerial", "captions", "chinese", "general", "photo", "plain", "product", "sketch"]

pytestmark = pytest.mark.usefixtures("empty_folder")


def write(name: str, content: str) -> str:
    Path(name).write_text(content, encoding="utf-8")
    return name


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        read()
    return str(caught.value)


def test_the_names_are_those_of_our_files_and_of_open_clip() -> None:
    assert prompt_set_names() == sorted([*OWN, "openai-imagenet", "simple-imagenet"])


@pytest.mark.parametrize("name", OWN)
def test_each_set_of_ours_is_complete_and_named_as_its_file(name: str) -> None:
    written = yaml.safe_load((PROMPTS_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    prompts = read_prompts(name)

    assert list(written) == ["name", "about", "source", "templates"]
    assert prompts == PromptSet(name, written["about"], written["source"], tuple(written["templates"]))
    assert len(set(prompts.templates)) == len(prompts.templates)
    for template in prompts.templates:
        ((sentence,),) = expand([Label("wombat")], read_templates([template])).prompts
        assert sentence.count("wombat") == 1
        assert "{" not in sentence


def test_the_general_set_is_an_ensemble_of_our_own() -> None:
    templates = set(read_prompts("general").templates)

    assert 15 <= len(templates) <= 25
    assert not templates & {template("{}") for template in OPENAI_IMAGENET_TEMPLATES}


def test_plain_is_the_label_alone_and_photo_one_sentence() -> None:
    labels = [Label("cat"), Label("dog")]

    assert expand(labels, read_prompts("plain")).prompts == (("cat",), ("dog",))
    assert expand(labels, read_prompts("photo")).prompts == (("a photo of a cat.",), ("a photo of a dog.",))


@pytest.mark.parametrize(
    ("name", "lambdas", "count"),
    [("openai-imagenet", OPENAI_IMAGENET_TEMPLATES, 80), ("simple-imagenet", SIMPLE_IMAGENET_TEMPLATES, 7)],
)
def test_open_clips_sets_make_the_sentences_that_open_clip_makes(
    name: str, lambdas: list[Callable[[str], str]], count: int
) -> None:
    words = ["cat", "crane, bird", "a {c} or {label}", "狗"]

    for _fresh_then_cached in range(2):
        sentences = expand([Label(word) for word in words], read_prompts(name)).prompts

        assert sentences == tuple(tuple(template(word) for template in lambdas) for word in words)
        assert [len(prompts) for prompts in sentences] == [count] * len(words)


def test_open_clips_sets_are_read_from_the_cache_the_second_time() -> None:
    remember("open-clip-templates", [version("open_clip_torch"), "simple-imagenet"], lambda: ["a kept {}."])

    assert read_prompts("simple-imagenet").templates == ("a kept {}.",)


def test_a_file_of_the_users_may_leave_out_everything_but_the_templates() -> None:
    file = write("mine.yaml", "templates: a {c}.\n")
    as_json = write("mine.json", '{"templates": ["a {label}."], "about": "mine", "name": "own"}')

    assert read_prompts(file) == PromptSet("mine", "", "mine.yaml", ("a {c}.",))
    assert read_prompts(as_json) == PromptSet("own", "mine", "mine.json", ("a {label}.",))


def test_a_text_file_has_one_template_a_line() -> None:
    file = write("mine.txt", "# mine\n\na {} in the mist. # grey\nthe {label}\n")

    assert read_prompts(file) == PromptSet("mine", "", "mine.txt", ("a {} in the mist.", "the {label}"))


def test_a_name_wins_over_a_file_unless_it_looks_like_a_path() -> None:
    write("plain", "mine {}\n")
    write("nope", "mine {}\n")
    write("plain.txt", "mine {}\n")
    write("openai-imagenet", "mine {}\n")

    assert read_prompts("plain").templates == ("{}",)
    assert len(read_prompts("openai-imagenet").templates) == 80
    for file in ("./plain", "nope", "plain.txt", "./openai-imagenet"):
        assert read_prompts(file).templates == ("mine {}",)


@pytest.mark.parametrize("name", ["nope", "nope.yaml", "./photo", "photo.yaml", ""])
def test_a_set_that_is_not_there_is_answered_with_those_that_are(name: str) -> None:
    assert refusal(lambda: read_prompts(name)) == (
        f"--prompts: no prompt set or file {name!r}; use one of aerial, captions, chinese, general, "
        "openai-imagenet, photo, plain, product, simple-imagenet, sketch, or the path of a file"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "the {}\na photo\n", "a.txt:2: template 'a photo' has no placeholder; put {} where the label goes"),
        ("a.txt", "\na {} {c}\n", "a.txt:2: template 'a {} {c}' has 2 placeholders; keep one"),
        ("a.txt", "# none\n", "a.txt: no template found; write at least one, such as 'a photo of a {}.'"),
        ("a.yaml", "about: x\n", "a.yaml: no template found; "),
        ("a.yaml", "templates:\n- the {}\n- {}\n", "a.yaml:3: expected text, found a mapping; "),
        ("a.yaml", "templates:\n- the {name}\n", "a.yaml:2: template 'the {name}' has no placeholder; "),
        ("a.yaml", "template: a {}\n", "a.yaml:1: unknown key 'template'; use name, about, source, templates, prompts"),
        ("a.yaml", "- a {}\n", "a.yaml:1: expected a mapping with name, about, source, templates, prompts; "),
        ("a.yaml", "templates: a {}\nabout: [x]\n", "a.yaml:2: expected text, found a list; "),
        ("a.yaml", "templates: a {}\nprompts: [x]\n", "a.yaml:2: expected a mapping; "),
        ("a.yaml", "templates: a {}\nprompts:\n  a: x\n  a: y\n", "a.yaml:4: key 'a' was already given on line 3; "),
        ("a.yaml", "templates: a {}\nprompts:\n  cat: a {} {}\n", "a.yaml:3: prompt 'a {} {}' has 2 placeholders; "),
    ],
)
def test_a_mistake_in_a_file_is_reported_with_its_line(name: str, content: str, message: str) -> None:
    file = write(name, content)

    assert refusal(lambda: read_prompts(file)).startswith(message)


def test_templates_of_the_command_line_replace_the_set() -> None:
    assert read_templates(["a {} ", "{c}", "the {label}"]).templates == ("a {}", "{c}", "the {label}")


def test_a_wrong_template_of_the_command_line_is_reported_with_its_flag() -> None:
    assert refusal(lambda: read_templates(["a {}", "a photo"])) == (
        "--template: template 'a photo' has no placeholder; put {} where the label goes"
    )
    assert refusal(lambda: read_templates(["{} {label}"])).startswith("--template: template '{} {label}' has 2 ")
    assert refusal(lambda: read_templates([" "])).startswith("--template: empty text; ")
    assert refusal(lambda: read_templates([])).startswith("--template: no template found; ")
