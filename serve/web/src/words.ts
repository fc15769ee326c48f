// Every word of the page, in both languages. A key missing in one of them does not compile.

import type { Consent, Language } from "./types";

const en = {
  newChat: "New chat", history: "Conversations", searchHistory: "Search conversations", noMatch: "Nothing found",
  noHistory: "Your conversations appear here.", today: "Today", yesterday: "Yesterday", week: "Last 7 days", older: "Earlier",
  rename: "Rename", remove: "Delete", exportJson: "Export as JSON", exportMarkdown: "Export as Markdown",
  exportAll: "Export all", importFile: "Import…", more: "More", showMore: "Show more", deleteAll: "Delete all", confirmDeleteAll: "Delete all conversations, ratings and decisions?", menu: "Conversations", closeMenu: "Close",
  skip: "Skip to the message box", conversation: "Conversation", settings: "Settings", close: "Close", cancel: "Cancel", save: "Save",
  model: "Model", tools: "Tools", answerOptions: "Answer options", quality: "Quality",
  qualityHint: "The score that the reply aims for. 100 is best; lower values show what the model learned to avoid.",
  innerThoughts: "Inner thoughts", innerThoughtsHint: "Let the model plan before it uses tools.",
  ask: "Message MOSS", send: "Send", stop: "Stop",
  welcome: "What can I do for you?", welcomeHint: "I can calculate, solve equations, look things up and draw.",
  disclaimer: "MOSS can be wrong. Check what matters; each answer shows its tools and sources.",
  web_search: "Search", calculator: "Calculator", equation_solver: "Equations", text_to_image: "Images",
  Search: "Search", Calculate: "Calculate", Solve: "Solve", Text2Image: "Text2Image", imageDrawn: "Image generated successfully.",
  thinking: "Thinking", takesLong: "This takes longer than usual; you can stop it and try again.", thoughts: "Thoughts", references: "Sources", referenceOf: "Source", sourceFound: "source", sourcesFound: "sources",
  running: "running", finished: "finished", noResult: "no result", dropped: "not run: this tool is off",
  imageAlt: "Picture drawn for", regenerate: "Regenerate", copy: "Copy", copied: "Copied", copyCode: "Copy code", edit: "Edit", taskDone: "Done", taskOpen: "To do",
  editMessage: "Edit message", sendEdited: "Send", good: "Good answer", bad: "Bad answer", whatWasGood: "What was good?", whatWasBad: "What went wrong?",
  tellMore: "Tell us more (optional)", sendFeedback: "Send feedback", feedbackThanks: "Thank you.",
  previousVersion: "Previous version", nextVersion: "Next version", questionVersion: "Version of the question", answerVersion: "Version of the answer",
  continueAnswer: "Continue", continuePrompt: "Please continue.", continueFrom: "Please continue this answer from where it stops:",
  stopped: "You stopped this answer. The model does not remember it.", cut: "The answer reached its length limit.",
  broken: "The connection broke before the answer was complete.", unreachable: "The server cannot be reached.",
  tooMany: "Too many requests right now.", retry: "Try again", retryIn: "Try again in", offline: "No connection to the server.",
  failedToLoad: "This could not be loaded.", noConversation: "This conversation is not here. It may have been deleted, or belong to another browser.", you: "You said", moss: "MOSS", answering: "MOSS is answering.", answered: "Answer complete.",
  confirmDelete: "Delete this conversation?", confirmDeleteHint: "It is removed from the server for good.",
  keyTitle: "This service needs a key", keyLabel: "API key", keyHint: "Kept in this tab only, and forgotten when you close it.", keyWrong: "The server did not accept this key.", useKey: "Use key", changeKey: "API key…",
  language: "Language", theme: "Theme", system: "System", light: "Light", dark: "Dark", data: "Your data", shortcuts: "Keyboard",
  shortcutSend: "Send", shortcutLine: "New line", shortcutStop: "Stop the answer", shortcutSearch: "Search conversations", shortcutNew: "New chat", shortcutFocus: "To the message box",
  consentTitle: "May your messages improve MOSS?", consentChange: "Change…", consentVersion: "Version",
  consentChanged: "This text has changed since you chose. Until you choose again, nothing is used.",
  consentNow: "Your messages are not used for training.", consentNowPrompts: "Your prompts may be used for training.", consentNowReplies: "Your prompts and the replies may be used for training.",
  imported: "Imported", table: "Table", notAnExport: "This file is not a conversation export of this page.", scrollDown: "To the newest message",
};

export type Words = Record<keyof typeof en, string>;

const zh: Words = {
  newChat: "新对话", history: "对话", searchHistory: "搜索对话", noMatch: "没有找到",
  noHistory: "您的对话会显示在这里。", today: "今天", yesterday: "昨天", week: "最近七天", older: "更早",
  rename: "重命名", remove: "删除", exportJson: "导出为 JSON", exportMarkdown: "导出为 Markdown",
  exportAll: "全部导出", importFile: "导入…", more: "更多", showMore: "显示更多", deleteAll: "全部删除", confirmDeleteAll: "删除所有对话、评价和选择？", menu: "对话列表", closeMenu: "关闭",
  skip: "跳到输入框", conversation: "对话内容", settings: "设置", close: "关闭", cancel: "取消", save: "保存",
  model: "模型", tools: "工具", answerOptions: "回答选项", quality: "质量",
  qualityHint: "回答所瞄准的分数。100 为最好；较低的值会显示模型学会避免的写法。",
  innerThoughts: "内心想法", innerThoughtsHint: "让模型在使用工具之前先想一想。",
  ask: "给 MOSS 发消息", send: "发送", stop: "停止",
  welcome: "有什么可以帮您？", welcomeHint: "我会计算、解方程、查资料、画图。",
  disclaimer: "MOSS 可能出错，重要内容请核实；每个回答都会列出所用的工具和来源。",
  web_search: "搜索", calculator: "计算器", equation_solver: "解方程", text_to_image: "画图",
  Search: "搜索", Calculate: "计算", Solve: "解方程", Text2Image: "画图", imageDrawn: "图片已生成。",
  thinking: "正在思考", takesLong: "用时比平常长；您可以停止后重试。", thoughts: "思考", references: "来源", referenceOf: "来源", sourceFound: "个来源", sourcesFound: "个来源",
  running: "运行中", finished: "已完成", noResult: "没有结果", dropped: "未运行：该工具已关闭",
  imageAlt: "按要求画的图：", regenerate: "重新生成", copy: "复制", copied: "已复制", copyCode: "复制代码", edit: "编辑", taskDone: "已完成", taskOpen: "待办",
  editMessage: "编辑消息", sendEdited: "发送", good: "好回答", bad: "差回答", whatWasGood: "好在哪里？", whatWasBad: "哪里不好？",
  tellMore: "请多说几句（可不填）", sendFeedback: "提交反馈", feedbackThanks: "谢谢。",
  previousVersion: "上一个版本", nextVersion: "下一个版本", questionVersion: "问题的版本", answerVersion: "回答的版本",
  continueAnswer: "继续", continuePrompt: "请继续。", continueFrom: "请从中断处接着写完这个回答：",
  stopped: "您停止了这个回答。模型不会记住它。", cut: "回答达到了长度上限。",
  broken: "回答还没结束，连接就断了。", unreachable: "无法连接服务器。",
  tooMany: "当前请求过多。", retry: "重试", retryIn: "重试倒计时", offline: "与服务器的连接已断开。",
  failedToLoad: "无法载入。", noConversation: "没有这段对话。它可能已被删除，或属于另一个浏览器。", you: "您说", moss: "MOSS", answering: "MOSS 正在回答。", answered: "回答完毕。",
  confirmDelete: "删除这段对话？", confirmDeleteHint: "它会从服务器上永久删除。",
  keyTitle: "该服务需要密钥", keyLabel: "API 密钥", keyHint: "只保存在当前标签页，关闭后即清除。", keyWrong: "服务器没有接受这个密钥。", useKey: "使用密钥", changeKey: "API 密钥…",
  language: "语言", theme: "主题", system: "跟随系统", light: "浅色", dark: "深色", data: "您的数据", shortcuts: "键盘",
  shortcutSend: "发送", shortcutLine: "换行", shortcutStop: "停止回答", shortcutSearch: "搜索对话", shortcutNew: "新对话", shortcutFocus: "跳到输入框",
  consentTitle: "您的消息可以用来改进 MOSS 吗？", consentChange: "更改…", consentVersion: "版本",
  consentChanged: "自您选择之后，本说明有了更新。在您重新选择之前，不会使用任何内容。",
  consentNow: "您的消息不会用于训练。", consentNowPrompts: "您的提问可能用于训练。", consentNowReplies: "您的提问和回答可能用于训练。",
  imported: "已导入", table: "表格", notAnExport: "该文件不是本页面导出的对话。", scrollDown: "到最新消息",
};

export const WORDS: Record<Language, Words> = { en, zh };

/** What a tool is called where its calls are shown; tools that this page does not know keep their name. */
export const nameOfApi = (api: string, words: Words): string => words[api as keyof Words] ?? api;

export const EXAMPLES: Record<Language, readonly { tool: string; text: string }[]> = {
  en: [
    { tool: "calculator", text: "What is 37*43+5?" },
    { tool: "equation_solver", text: "Solve 3x+4=19." },
    { tool: "web_search", text: "What is the capital of France?" },
    { tool: "text_to_image", text: "Draw a red fox in the snow." },
  ],
  zh: [
    { tool: "calculator", text: "37*43+5等于多少?" },
    { tool: "equation_solver", text: "解方程3x+4=19。" },
    { tool: "web_search", text: "法国的首都是哪里?" },
    { tool: "text_to_image", text: "画雪地里的红色狐狸。" },
  ],
};

/** Reasons offered with a rating, and the word for each that the server stores. */
export const REASONS: Record<"good" | "bad", readonly { code: string; en: string; zh: string }[]> = {
  good: [
    { code: "correct", en: "Correct", zh: "正确" },
    { code: "clear", en: "Clear", zh: "清楚" },
    { code: "complete", en: "Complete", zh: "完整" },
    { code: "tools", en: "Good use of tools", zh: "工具用得好" },
  ],
  bad: [
    { code: "incorrect", en: "Not correct", zh: "不正确" },
    { code: "instructions", en: "Did not follow me", zh: "没有按要求" },
    { code: "tools", en: "Wrong use of tools", zh: "工具用错了" },
    { code: "language", en: "Badly written", zh: "表达不好" },
    { code: "unsafe", en: "Harmful", zh: "有害" },
    { code: "refused", en: "Refused without reason", zh: "无故拒绝" },
  ],
};

export type ConsentText = {
  readonly intro: string;
  readonly choices: Record<Consent, { readonly title: string; readonly text: string }>;
  readonly note: string;
};

/** The consent text by version. A new text is a new entry here and a new CONSENT_VERSION in the store. */
export const CONSENT_TEXTS: Record<number, Record<Language, ConsentText>> = {
  1: {
    en: {
      intro: "Good models are made from real questions. Nothing is used unless you choose it here, and you can change it at any time for what you send afterwards.",
      choices: {
        none: { title: "Do not use my messages", text: "They are kept in your history only, until you delete them." },
        improve: { title: "My prompts may be used", text: "Names, addresses and numbers are removed first; then prompts may become seeds for new training questions." },
        improve_with_replies: { title: "My prompts and the replies may be used", text: "As above, together with the answers you got and how you rated them." },
      },
      note: "Deleting a conversation also takes it out of every later collection. What a model has already learned cannot be taken back.",
    },
    zh: {
      intro: "好的模型来自真实的问题。除非您在这里选择，否则不会使用任何内容；您可以随时更改，更改只影响之后发送的内容。",
      choices: {
        none: { title: "不要使用我的消息", text: "它们只保存在您的历史中，直到您删除。" },
        improve: { title: "可以使用我的提问", text: "会先去掉姓名、地址和号码，然后提问可能成为新训练问题的种子。" },
        improve_with_replies: { title: "可以使用我的提问和回答", text: "同上，并包括您得到的回答和您的评价。" },
      },
      note: "删除对话后，它也不会进入以后的任何收集。模型已经学到的内容无法收回。",
    },
  },
  2: {
    en: {
      intro: "Good models are made from real questions. Nothing is used unless you choose it here, and you can change it at any time for what you send afterwards.",
      choices: {
        none: { title: "Do not use my messages", text: "They are kept in your history only, until you delete them." },
        improve: {
          title: "My prompts may be used",
          text: "A program first removes what it recognizes of e-mail addresses, telephone, identity and card numbers, keys and the like. Names of people, postal addresses and dates of birth stay in. Then prompts may become seeds for new training questions.",
        },
        improve_with_replies: { title: "My prompts and the replies may be used", text: "As above, together with the answers you got and how you rated them." },
      },
      note: "Leave out what nobody else should read. Deleting a conversation also takes it out of every later collection. What a model has already learned cannot be taken back.",
    },
    zh: {
      intro: "好的模型来自真实的问题。除非您在这里选择，否则不会使用任何内容；您可以随时更改，更改只影响之后发送的内容。",
      choices: {
        none: { title: "不要使用我的消息", text: "它们只保存在您的历史中，直到您删除。" },
        improve: {
          title: "可以使用我的提问",
          text: "程序会先去掉它能识别的电子邮箱、电话号码、证件号码、银行卡号、密钥等；人名、邮寄地址和出生日期不会被去掉。然后提问可能成为新训练问题的种子。",
        },
        improve_with_replies: { title: "可以使用我的提问和回答", text: "同上，并包括您得到的回答和您的评价。" },
      },
      note: "请不要写入不愿让他人看到的内容。删除对话后，它也不会进入以后的任何收集。模型已经学到的内容无法收回。",
    },
  },
};
