// Words of the page in both languages, and model text as DOM nodes. Nothing here parses HTML:
// every character a person, a tool or the model wrote becomes a text node.

export const WORDS = {
  en: {
    newChat: "New chat", history: "History", consentTitle: "Use of my messages",
    consentNone: "Do not use them", consentPrompts: "Prompts may improve the model",
    consentReplies: "Prompts and replies may improve the model",
    consentHint: "Applies to what you send from now on.", keyHint: "API key",
    menu: "Show or hide history", language: "切换到中文", theme: "Light or dark", tools: "Tools",
    ask: "Ask anything", send: "Send", stop: "Stop", welcome: "What can I do for you?",
    welcomeHint: "I can calculate, solve equations, look things up and draw.",
    disclaimer: "Answers may be wrong. Tool results are shown with each answer.",
    web_search: "Search", calculator: "Calculator", equation_solver: "Equations",
    text_to_image: "Images", thoughts: "Thoughts", references: "References", dropped: "not allowed",
    regenerate: "Regenerate", copy: "Copy", good: "Good answer", bad: "Bad answer",
    remove: "Delete", stopped: "Stopped.", failed: "This answer broke off.", retry: "Try again",
    you: "You", confirmDelete: "Delete this conversation?", cut: "The answer hit its length limit.",
  },
  zh: {
    newChat: "新对话", history: "历史", consentTitle: "我的消息的用途",
    consentNone: "不使用", consentPrompts: "提问可用于改进模型",
    consentReplies: "提问和回答可用于改进模型",
    consentHint: "只对之后发送的内容有效。", keyHint: "API 密钥",
    menu: "显示或隐藏历史", language: "Switch to English", theme: "浅色或深色", tools: "工具",
    ask: "想问什么都可以", send: "发送", stop: "停止", welcome: "有什么可以帮您？",
    welcomeHint: "我会计算、解方程、查资料、画图。",
    disclaimer: "回答可能有误。每个回答都附有工具结果。",
    web_search: "搜索", calculator: "计算器", equation_solver: "解方程",
    text_to_image: "画图", thoughts: "思考", references: "参考资料", dropped: "未允许",
    regenerate: "重新生成", copy: "复制", good: "好回答", bad: "差回答",
    remove: "删除", stopped: "已停止。", failed: "回答中断了。", retry: "重试",
    you: "您", confirmDelete: "删除这段对话？", cut: "回答达到长度上限。",
  },
};

export const EXAMPLES = {
  en: ["What is 37*43+5?", "Solve 3x+4=19.", "What is the capital of France?", "Draw a red fox."],
  zh: ["37*43+5等于多少?", "解方程3x+4=19。", "法国的首都是哪里?", "你是谁?"],
};

// A citation as the model writes it: <sup><|1|></sup>
const CITATION = /<sup><\|(\d{1,3})\|><\/sup>/g;

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Line drawings on a 24 x 24 field; emoji depend on fonts that many machines lack.
const ICONS = {
  copy: "M9 9h10v11H9z M5 15V4h10",
  regenerate: "M20 11a8 8 0 1 0-2.3 5.7 M20 5v6h-6",
  good: "M7 11v9H4v-9z M7 11l4-7c1.700 0 2.500 1 2.200 2.700L12.600 10H19c1 0 1.600.9 1.300 1.900l-1.900 6.600c-.3.900-1 1.500-1.900 1.500H7",
  bad: "M17 13V4h3v9z M17 13l-4 7c-1.700 0-2.500-1-2.200-2.700l.6-3.300H5c-1 0-1.600-.9-1.300-1.900l1.900-6.600C5.900 4.600 6.600 4 7.500 4H17",
  remove: "M6 6l12 12 M18 6L6 18",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

export function showText(node, text) {
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(CITATION)) {
    pieces.push(document.createTextNode(text.slice(end, match.index)));
    pieces.push(element("sup", "citation", match[1]));
    end = match.index + match[0].length;
  }
  pieces.push(document.createTextNode(text.slice(end)));
  node.replaceChildren(...pieces);
}
