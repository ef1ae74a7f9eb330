"""The opening verb in Chinese, by a list.

Chinese imperatives begin with the verb, unless they first say with what or to what it is done
("将以下物品分类": 分类); then it is the first longer verb behind that. The object is not looked
for: it ends a phrase without spaces, and no simple rule finds where it starts.
"""

from __future__ import annotations

import re

# What may stand before the verb.
_LEAD = re.compile(
    r"(?:请你?|帮我|帮忙|麻烦你?|你?(?:需要|可以|应该)|我们?(?:需要|想要?)(?=[写做找])|给我|现在|然后|"
    r"再|并|先|简要地?|简单地?|详细地?|重新|自动|直接)+"
)
_VERBS = """
    生成 列出 描述 创建 解释 提供 建议 找出 总结 设计 计算 确定 构建 创作 创造 识别 分析 找到 给出
    使用 比较 编写 编辑 想象 分类 选择 想出 判断 说出 改变 提出 修改 定义 举出 回答 写出 建立 研究
    输出 概述 鉴定 减少 告诉 概括 开发 制定 评估 列举 添加 制作 预测 编制 优化 调试 去掉 删除 删掉
    说明 讲解 排列 排序 讨论 撰写 翻转 获取 简述 查找 安排 评价 批评 改写 重写 转换 翻译 归类 辨别
    组成 造句 替换 插入 合并 提取 填写 填空 完成 补充 纠正 更正 校对 推荐 介绍 阐述 阐明 论述 证明
    验证 检查 测试 求解 解决 解答 绘制 画出 规划 计划 发布 发送 组织 整理 转化 变成 改成 改为 命名
    区分 对比 估计 估算 推断 推测 猜测 模拟 实现 运行 打印 显示 展示 表达 表示 陈述 叙述 讲述 复述
    缩写 扩展 缩短 简化 润色 续写 起草 拟定 发明 构思 构造 搜索 收集 统计 连接 组合 标记 标注 归纳
    探讨 反驳 支持 说服 道歉 朗读 阅读 准备 制造 调查 指出 探索 改进 改善 增加 更新 编造 编码 解码
    拼写 拼接 分解 分配 分割 拆分 排除 过滤 匹配 移除 反转 交换 求出 除以 格式化 发现 回应 引用 配置
    补全 评分 汇总 赋予 赋值 了解 表述 模仿 取名 命题 转述 归还 加入 调整 挑选 推导 检测 监测 监控
    策划 抽取 概念化 修正 修复 改正 举例 对照 排名 更改 回复 理解 重组 应用
"""
_VERB = re.compile("|".join(sorted(_VERBS.split(), key=len, reverse=True)))
_SHORT_VERB = re.compile("[写求说讲举列找造画选编做算问想读译猜教]")
_WRITES = re.compile("[写取造做画选编讲说](?=[一两三四五几个出])")
# Says with what, or to what; the verb comes later in the clause or in the next one.
_COVERB = re.compile("[将把为给用在从对按以让使与和]|根据|关于|基于|给定|针对|通过|如果|假设")
_QUESTION = re.compile(
    "为什么|为何|什么|如何|怎么样|怎么|怎样|哪里|哪些|哪|谁|多少|几(?=[个种次年天])|是否|能否"
)
_CLAUSE = re.compile(r"[^，。！？；：,!?;:\n]+[，。！？；：,!?;:\n]?")


def chinese_opening(instruction: str) -> str | None:
    """The verb of the first clause that has one, or its question word and "…?"."""
    for clause in map(str.strip, _CLAUSE.findall(instruction)):
        lead = _LEAD.match(clause)
        text = clause[lead.end() :] if lead else clause
        asks = text.endswith(("？", "?"))
        if word := _QUESTION.match(text) or (asks and _QUESTION.search(text)):
            return f"{word[0]} …?"
        if found := _VERB.match(text) or _SHORT_VERB.match(text):
            return found[0]
        if asks:
            return "吗 …?"
        if _COVERB.match(text) and (found := _VERB.search(text, 2) or _WRITES.search(text, 2)):
            return found[0]
        if text.startswith("给") or (lead and lead[0].endswith("给我")):
            return "给"
    return None
