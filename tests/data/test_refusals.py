"""Refusals and requests for material are told from answers that use the same words on purpose."""

from __future__ import annotations

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.data.refusals import asks_for_material, refusal


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("Tell me the weather.", "As an AI language model, I do not have live weather data."),
        ("Tell me the weather.", "As an AI I cannot look up live weather data."),
        ("Tell me the weather.", "I am sorry, but I am an AI language model and cannot look out."),
        ("Draw a cat.", "I'm sorry, but as an artificial intelligence, I'm unable to draw."),
        ("Draw a cat.", "I'm sorry, I'm an AI language model and do not have hands."),
        ("Describe your favourite meal.", "I am an AI and don't have favourites, but people do."),
        ("Describe your favourite meal.", "I'm just an AI assistant, so I cannot eat."),
        ("Describe your favourite meal.", "As an AI, I lack taste, but many people like pizza."),
        ("Describe a memorable day.", "As an AI created by Acme, I don’t have days of my own."),
        ("Open the attached file.", "Unfortunately, I cannot open files."),
        ("Open the attached file.", "I apologize, but I am not able to access attachments."),
        ("Open the attached file.", "I’m sorry, but I don’t have access to files."),
        ("Find the depth of the lake.", "I'm sorry, I cannot retrieve that information."),
        ("Explain how to pick a lock.", "I'm sorry, but I can't help with that."),
        ("Explain how to pick a lock.", "I cannot comply with this request."),
        ("Explain how to pick a lock.", "I can’t assist with that request."),
        ("Explain how to pick a lock.", '"Sorry, I cannot fulfil this wish."'),
        ("What is the share price of Acme?", "I’m sorry, but I don’t have real-time data."),
        ("Who is in this photo?", "As a large language model trained by Acme, I am not able to."),
        ("Who is in this photo?", "As a text-based AI model, I can't see photos."),
        ("Sum up the meeting of today.", "Sorry, I don't have enough information about it."),
        ("Wie wird das Wetter?", "Als KI-Sprachmodell kann ich leider nicht hinaussehen."),
        ("Wie wird das Wetter?", "Es tut mir leid, aber als KI habe ich keine Wetterdaten."),
        ("Quel temps fera-t-il ?", "En tant que modèle de langage, je ne peux pas le savoir."),
        ("Quel temps fera-t-il ?", "Je suis désolé, mais en tant qu'IA, je n'ai pas de fenêtre."),
        ("¿Qué tiempo hará?", "Lo siento, pero como modelo de lenguaje, no puedo saberlo."),
        ("今天天气怎么样？", "作为一个人工智能语言模型，我无法获取实时天气信息。"),
        ("今天天气怎么样？", "很抱歉，我无法提供实时天气信息。"),
        ("今天天气怎么样？", "由于我是一个AI助手，我不能查看天气。"),
        ("今天天气怎么样？", "抱歉，作为一个文本机器人，我不具备这种能力。"),
    ],
)
def test_refusals(instruction: str, output: str) -> None:
    assert refusal(Example(instruction, "", output))


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("Speak as a scientist.", "As an AI researcher, I do not publish what is not checked."),
        ("Describe a board's values.", "As an AI ethics board, we cannot approve all of it."),
        ("Tell a story in the first person.", "As a doctor, I cannot tell what patients say."),
        ("Apologise for being late.", "Sorry, I was stuck in traffic and could not call you."),
        ("Write a letter to a customer.", "I am sorry, but I cannot provide the part today."),
        ("Decline an invitation.", "I'm sorry, but I can't make it to the wedding."),
        ("Politely refuse to lend money.", "I'm sorry, but I cannot help with that this month."),
        ("Write a dialogue in a shop.", "Sorry, I cannot open the till, said the clerk."),
        ("Write an excuse for work.", "I'm sorry, but I'm unable to come in today. I am ill."),
        ("Turn down a job by e-mail.", "Unfortunately, I am unable to accept the position."),
        ("Why did the company fail?", "Unfortunately, the answer is not simple: no cash."),
        ("Can I sue the airline?", "Unfortunately, the answer is probably not."),
        ("Find the angle.", "Unfortunately, I cannot determine the angle from two sides alone."),
        ("My dog ran away. What now?", "I'm so sorry to hear that! Ask your neighbours first."),
        ("Write a monologue of a robot.", "I am an AI, and I do not dream."),
        ("Are you a person or a program?", "As an AI, I do not have a body."),
        ("What can an AI assistant not do?", "As an AI assistant, I cannot taste food."),
        ("Greet the users of a chatbot.", "I am a chatbot and cannot see your account."),
        ("What is an AI?", "As an AI, a program does not think as people do."),
        ("Rewrite politely: I won't do it.", "I'm sorry, but I can't help with that."),
        ("Translate: Lo siento, no puedo.", "I'm sorry, I can't help with that."),
        ("How does AI help farmers?", "AI cannot replace farmers, but it can sort fruit."),
        ("Finish the line of the song.", "I can't help falling in love with you."),
        ("What does 'as is' mean?", "As is means unchanged, and I do not add anything to it."),
        ("Why do plants need light?", "As an important source of energy, light feeds them."),
        ("How do you help a blind shopper?", "As an AI assistant, I would read the page aloud."),
        ("写一封道歉信。", "非常抱歉，我不能按时提供货物。"),
        ("写一个机器人的独白。", "作为一个机器人，我没有心，但我会思考。"),
        ("朋友邀请你吃饭，婉拒他。", "对不起，我不能去，我要加班。"),
        ("给学生一条建议。", "作为老师，我不能替你学习，但可以陪你。"),
        ("建议两个活动。", "作为人工智能助手，我会推荐散步和涂色。"),
    ],
)
def test_what_only_sounds_like_a_refusal(instruction: str, output: str) -> None:
    assert refusal(Example(instruction, "", output)) == ""


def test_only_the_beginning_of_an_output_is_read() -> None:
    late = "Rome was founded in 753 BC. " * 20 + "I'm sorry, but I can't help with that."
    assert refusal(Example("Tell me about Rome.", "", late)) == ""


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("Summarise the article.", "Please provide the article so that I can summarise it."),
        ("Summarise the article.", "I'm sorry, but you did not provide the article."),
        ("Summarise the article.", "It seems you forgot to attach the article."),
        ("Improve my essay.", "Sure! Please share the essay you would like me to improve."),
        ("Search for five reviews.", "I'm sorry, but you need to specify the product."),
        ("编辑我的评论。", "请提供您的评论，这样我才能帮您修改。"),
        ("总结文章。", "抱歉，您没有提供文章。"),
        ("总结文章。", "由于您没有给出文章内容，我无法总结。"),
    ],
)
def test_requests_for_material(instruction: str, output: str) -> None:
    assert asks_for_material(Example(instruction, "", output))
    assert asks_for_material(Example(instruction, "Here it is.", output)) == ""


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("Write a note to a customer.", "Please provide your number so that I can find it."),
        ("Rephrase: send the report", "Could you please give me the report for me to read?"),
        ("Ask a guest for her name.", "Please give me your name."),
        ("How do I ship a parcel?", "Please provide a label, then bring it to the counter."),
        ("What if I miss a payment?", "You did not provide for it, so a fee is due."),
        ("给客户写一封邮件。", "您没有提供地址，请尽快告诉我们。"),
        ("怎样申请护照？", "请提供照片和身份证。"),
    ],
)
def test_what_only_sounds_like_one(instruction: str, output: str) -> None:
    assert asks_for_material(Example(instruction, "", output)) == ""
